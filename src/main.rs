//! Start-up in one screen.

fn main() {}
