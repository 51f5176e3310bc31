//! Runs every target over its seeds and over mutations of them: a number of always the same ones (`KNATS_FUZZ_ROUNDS`), or, with
//! `KNATS_FUZZ_SECONDS`, others for so long. `KNATS_FUZZ_SEED` repeats a run.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::mutation::mutate;
use super::{TARGETS, run};

/// Mutations when nobody says how many, or for how long.
const ROUNDS: u64 = 500;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// In the order of their names, so that a run can be repeated.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder("seeds").join(target)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn fuzz(target: &str) {
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    for seed in &seeds {
        holds(target, seed, None);
    }
    let time = setting("KNATS_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = setting("KNATS_FUZZ_SEED").unwrap_or_else(|| time.map_or(1, |_| fastrand::u64(..)));
    let most = setting("KNATS_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    let (mut rng, start, mut rounds) = (Rng::with_seed(seed), Instant::now(), 0);
    while time.map_or(rounds < most, |time| start.elapsed() < time) {
        holds(target, &mutate(&seeds, &mut rng), Some(seed));
        rounds += 1;
    }
    println!("{target}: {} seeds, {rounds} mutations with KNATS_FUZZ_SEED={seed}", seeds.len());
}

/// What breaks a law is put where libFuzzer puts it.
fn holds(target: &str, input: &[u8], seed: Option<u64>) {
    if catch_unwind(|| run(target, input)).is_err() {
        let file = folder("artifacts").join(target).join("crash-of-a-test");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, input).unwrap();
        panic!(
            "{target}: '{}' breaks a law (KNATS_FUZZ_SEED={seed:?}); it is in {}, keep it in fuzz/seeds/{target}/",
            input.escape_ascii(),
            file.display()
        );
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// One test a target, so that they run beside each other.
        mod holds {
            $(#[test] fn $name() { super::fuzz(stringify!($name)); })*
        }

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    attribute_values cesql durations filters http_event json_event manifests nats_frames nats_message pass_through problems
    reply retry_after sink_answer sink_request trace_headers
}

#[test]
fn every_target_is_tested_here_and_has_a_binary_for_libfuzzer() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED);
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"target.rs\"\n")), "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
