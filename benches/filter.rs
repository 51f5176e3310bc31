//! What a filter costs per event, beside the bare comparison of one attribute in the same run; and that it allocates nothing.
//!
//! `cargo bench --bench filter`

#![allow(clippy::unwrap_used)]

use divan::{AllocProfiler, Bencher, black_box};
use knats::event::{Builder, Event, SpecVersion};
use knats::filter::{Filter, Verdict};
use serde_json::{Value, json};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn event() -> Event {
    let mut builder = Builder::new(SpecVersion::V10);
    for (name, value) in [
        ("id", "8f5a2a6e-6c9a-4b59-8f0e-5a4b2f6f7c11"),
        ("source", "https://shop.example.com/orders"),
        ("time", "2026-01-02T03:04:05.678Z"),
        ("subject", "order-4711"),
        ("datacontenttype", "application/json"),
        ("priority", "7"),
        ("type", "com.example.order.created"),
    ] {
        builder.attribute(name, value).unwrap();
    }
    builder.build().unwrap()
}

fn evaluate(bencher: Bencher<'_, '_>, filters: &Value) {
    let (filter, event) = (Filter::compile(filters).unwrap(), event());
    assert_eq!(filter.evaluate(&event), Verdict::Match);
    bencher.bench(|| black_box(&filter).evaluate(black_box(&event)));
}

#[divan::bench]
fn bare_comparison(bencher: Bencher<'_, '_>) {
    let event = event();
    bencher.bench(|| black_box(&event).attribute(black_box("type")) == Some(black_box("com.example.order.created")));
}

#[divan::bench]
fn exact(bencher: Bencher<'_, '_>) {
    evaluate(bencher, &json!([{ "exact": { "type": "com.example.order.created" } }]));
}

#[divan::bench]
fn prefix(bencher: Bencher<'_, '_>) {
    evaluate(bencher, &json!([{ "prefix": { "type": "com.example." } }]));
}

#[divan::bench]
fn any_of_ten_types(bencher: Bencher<'_, '_>) {
    let mut types: Vec<Value> =
        (0..9).map(|n| json!({ "exact": { "type": format!("com.example.other.{n}") } })).collect();
    types.push(json!({ "exact": { "type": "com.example.order.created" } }));
    evaluate(bencher, &json!([{ "any": types }]));
}

#[divan::bench]
fn cesql_equal(bencher: Bencher<'_, '_>) {
    evaluate(bencher, &json!([{ "cesql": "type = 'com.example.order.created'" }]));
}

#[divan::bench]
fn cesql_typical(bencher: Bencher<'_, '_>) {
    let expression = "type LIKE 'com.example.order.%' AND source IN ('/shop', 'https://shop.example.com/orders') AND priority > 5 AND NOT EXISTS test";
    evaluate(bencher, &json!([{ "cesql": expression }]));
}

#[divan::bench]
fn compile_cesql_typical(bencher: Bencher<'_, '_>) {
    let filters =
        json!([{ "cesql": "type LIKE 'com.example.order.%' AND source IN ('/shop', '/orders') AND priority > 5" }]);
    bencher.bench(|| Filter::compile(black_box(&filters)));
}
