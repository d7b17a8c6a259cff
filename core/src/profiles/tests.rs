//! The file of profiles, the choice by GPUs, and what tools tell of GPUs.

mod choosing;
mod files;
mod graphics;
