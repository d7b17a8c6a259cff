//! The two policies that everything is compared with.
//!
//! Owns: strict arrival order, as llama-swap has it, and resident-first. Must never do: anything
//! clever; they are what they are named.

use std::collections::VecDeque;

use crate::policy::{Done, Policy, Told};

/// What is on the GPU, as both see it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gpu {
    #[default]
    Empty,
    Loading(usize),
    Ready(usize, usize),
    Stopping,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Whoever came first is served first, whatever it costs.
    Arrival,
    /// Whoever wants what is there goes first, however long others have waited.
    Resident,
}

/// See the module.
#[derive(Debug)]
pub struct Baseline {
    order: Order,
    gpu: Gpu,
    waiting: VecDeque<(usize, usize)>,
}

impl Baseline {
    /// Strict arrival order.
    pub fn strict() -> Self {
        Baseline { order: Order::Arrival, gpu: Gpu::Empty, waiting: VecDeque::new() }
    }

    /// The resident first.
    pub fn resident_first() -> Self {
        Baseline { order: Order::Resident, ..Baseline::strict() }
    }

    fn decide(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        if let Gpu::Ready(model, _) = self.gpu {
            done.extend(self.serve(model));
        }
        let Some(first) = self.waiting.front().map(|(_, model)| *model) else { return done };
        match self.gpu {
            Gpu::Empty => {
                self.gpu = Gpu::Loading(first);
                done.push(Done::Load(first));
            }
            Gpu::Ready(_, 0) => {
                self.gpu = Gpu::Stopping;
                done.push(Done::Stop);
            }
            _ => {}
        }
        done
    }

    fn serve(&mut self, model: usize) -> Vec<Done> {
        let served: Vec<usize>;
        match self.order {
            Order::Arrival => {
                let run = self.waiting.iter().take_while(|(_, wanted)| *wanted == model).count();
                served = self.waiting.drain(..run).map(|(number, _)| number).collect();
            }
            Order::Resident => {
                let of_it = |(_, wanted): &&(usize, usize)| *wanted == model;
                served = self.waiting.iter().filter(of_it).map(|(number, _)| *number).collect();
                self.waiting.retain(|(_, wanted)| *wanted != model);
            }
        }
        if let Gpu::Ready(_, in_flight) = &mut self.gpu {
            *in_flight += served.len();
        }
        served.into_iter().map(Done::Serve).collect()
    }
}

impl Policy for Baseline {
    fn name(&self) -> &'static str {
        match self.order {
            Order::Arrival => "strict order",
            Order::Resident => "resident first",
        }
    }

    fn on(&mut self, told: Told<'_>, _: u64) -> Vec<Done> {
        match (told, self.gpu) {
            (Told::Came(number, request), _) => self.waiting.push_back((number, request.model)),
            (Told::Ready, Gpu::Loading(model)) => self.gpu = Gpu::Ready(model, 0),
            (Told::Gone, _) => self.gpu = Gpu::Empty,
            (Told::InFlight(count), Gpu::Ready(model, _)) => self.gpu = Gpu::Ready(model, count),
            _ => {}
        }
        self.decide()
    }

    fn next_tick(&self) -> Option<u64> {
        None
    }
}
