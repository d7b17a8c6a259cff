//! Telemetry as a whole: no record is lost or torn, and no prompt is where it should not be (SPEC 7).
