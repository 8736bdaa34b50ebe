//! Tests of the project's own texts: what the code, the tests and the documents say of each other.
//!
//! They read files and start nothing. A failure names the file, the line, and what to do.

mod layers;
mod project;
mod rules;
