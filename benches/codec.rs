//! What reading and writing one event costs, and deciding about a failed attempt: time and allocations.
//!
//! `cargo bench --bench codec`

#![allow(clippy::panic)]

mod cases;

use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = cases::all().iter().map(|case| case.name).collect::<Vec<_>>())]
fn codec_and_policy(bencher: Bencher<'_, '_>, name: &str) {
    let cases = cases::all();
    let case = cases.iter().find(|case| case.name == name);
    let work = case.map_or_else(|| panic!("no case {name}"), |case| &case.work);
    bencher.bench_local(work);
}
