//! How bytes reach readers.

pub mod socket;
pub mod upgrade;
