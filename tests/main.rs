//! The promises of the bridge, tested from outside: the real binary, a real nats-server, real sockets. One file a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::large_futures, reason = "a test's future is on nobody's way")]
#![allow(unreachable_pub, reason = "one binary: pub is for the modules beside")]

mod support;
mod support_works;

mod address_guard;
mod adoption;
mod architecture;
mod await_points;
mod backlog;
mod backoff;
mod brokers;
mod chaos;
mod cluster;
mod commands;
mod contexts;
mod controls;
mod crash_matrix;
mod dead_letter_commands;
mod dead_letters;
mod diff;
mod dispatch_request;
mod doctor;
mod eventing_natss;
mod failing_network;
mod foreign_messages;
mod get;
mod golden;
mod guarantees;
mod hostile_ingress;
mod hostile_sinks;
mod ingress_answers;
mod ingress_auth;
mod ingress_modes;
mod ingress_tls;
mod isolation;
mod lifecycle;
mod logs;
mod management_api;
mod manifests;
mod manifests_in_repo;
mod metrics;
mod nats_access;
mod nats_faults;
mod nats_operator;
mod nats_upgrade;
mod observability;
mod odd_answers;
mod otlp_metrics;
mod proxies;
mod redrive;
mod replies;
mod response_table;
mod rolling_restart;
mod routing;
mod secrets;
mod sink_faults;
mod sink_tls;
mod size_limit;
mod slow_sink;
mod steering;
mod stored_form;
mod tail;
mod traces;
mod unreadable_messages;
mod vanishing_assets;
mod why;
