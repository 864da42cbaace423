//! NVIDIA's GPUs: the real code over the fake driver, on both of its frameworks.

mod hazards;
mod library;
mod life;
mod mixed;
mod tool;
pub(crate) mod world;
