//! The promises of the bridge, tested from outside: the real binary, a real nats-server, real sockets. One file a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub, reason = "one binary: pub is for the modules beside")]

mod support;
mod support_works;
