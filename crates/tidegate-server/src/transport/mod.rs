//! How bytes reach readers.

pub mod guarded;
pub mod socket;
pub mod upgrade;
