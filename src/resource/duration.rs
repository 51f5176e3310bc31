//! ISO 8601 durations, as delivery options have them, and Go's, as the JetStream templates have them.
