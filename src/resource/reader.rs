//! Reads fields out of a JSON value by name and type, remembers what nobody asked for, and collects faults with their paths.
