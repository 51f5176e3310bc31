//! Media types as far as CloudEvents needs them: which one is JSON, which one is an event format.
