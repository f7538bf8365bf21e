//! The packet path: what is dropped before the kernel makes a socket buffer of it. The program in `bpf/` decides; [`model`]
//! decides the same in Rust, and stands for it where there is no kernel to ask. [`kernel`] loads the program and keeps its
//! tables as they are to be.

pub mod kernel;
pub mod model;
pub mod tables;
pub mod vectors;

#[cfg(test)]
mod tests;

pub use kernel::{Attached, PacketPath, Sample};
pub use model::Reason;
pub use tables::{PacketRule, Tables};
