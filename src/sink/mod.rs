//! One delivery to one destination, and its outcome. The one room that names the HTTP client.

pub mod client;
