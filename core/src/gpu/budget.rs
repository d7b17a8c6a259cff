//! How many may be on the GPU at once.
//!
//! Owns: the number. Must never do: find out what fits; whoever knows the GPU and the models does,
//! and where that is not known it is one (SPEC 6.5).

/// A plain number of residents: a vLLM and Ollama may both stay where it is more than one. There is
/// never more than one vLLM that we supervise, and Ollama's models are Ollama's to order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuBudget {
    /// So many, at least one.
    pub residents: usize,
}

impl Default for GpuBudget {
    fn default() -> Self {
        GpuBudget { residents: 1 }
    }
}

impl GpuBudget {
    /// Whether Ollama may stay beside a vLLM.
    pub fn ollama_stays(self) -> bool {
        self.residents > 1
    }
}
