//! Who may use the GPU: the arbiter's core (SPEC 6.6, DESIGN "What the arbiter governs").
//!
//! Owns: the [`scheduler`]: queue, swaps, what is resident; and how refusals are told. Must never do: know a clock, an actor
//! or a process; it is told what happened and says what shall happen.

mod asker;
mod budget;
mod class_rules;
pub mod lease;
pub mod model_limits;
mod refusal;
pub mod scheduler;
mod served;
mod tenant;

pub use asker::{Asker, Class, ClientId, LeaseToken};
pub use budget::GpuBudget;
pub use class_rules::ClassRules;
pub use scheduler::{Effect, Event, Refusal, Scheduler, SchedulerRules};
pub use tenant::{Side, Tenant, TenantId};
