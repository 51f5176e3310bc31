//! Knative's kinds: the fields of each, read strictly.
