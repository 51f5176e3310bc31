//! Percent-coding of attribute values in headers (CloudEvents HTTP binding, section 3.1.3.2).
