//! Redrive: makes sure that a message is delivered.

fn main() {}
