//! The arrows between the rooms of the house, held by reading the source: whoever is left never knows who is right, and each
//! outside library has one room that speaks to it.

use std::path::{Path, PathBuf};

/// From left to right: a room may know those before it.
const ROOMS: [&str; 15] = [
    "fault_point",
    "event",
    "filter",
    "resource",
    "telemetry",
    "channel",
    "sink",
    "server",
    "ingress",
    "dispatch",
    "manage",
    "admin",
    "bridge",
    "cli",
    // No part of the program: it calls what each room says of itself.
    "fuzz",
];

/// Pairs that are in order but shall not know each other all the same.
const STRANGERS: [(&str, &str); 1] = [("dispatch", "ingress")];

/// A library, and where it may be named (beginnings of paths below `src/`).
const LIBRARIES: [(&str, &[&str]); 8] = [
    ("async_nats", &["channel/"]),
    // A collector is no sink: what goes there is not an event, and the room is left of that of the sinks.
    ("reqwest", &["sink/", "sink.rs", "telemetry/otlp.rs"]),
    ("opentelemetry_proto", &["telemetry/"]),
    ("prost", &["telemetry/"]),
    ("axum", &["ingress/", "admin/", "server.rs", "server/", "cli/http.rs", "cli/view", "cli/demo"]),
    ("jsonwebtoken", &["ingress/oidc/"]),
    ("rustls", &["channel/wire/", "server/tls.rs", "resource/certificates.rs", "sink/"]),
    // `manage` describes what it answers; so do the files that own a part of an answer.
    (
        "utoipa",
        &[
            "admin/api/",
            "manage/",
            "channel/attempts.rs",
            "channel/kept.rs",
            "channel/plan.rs",
            "dispatch/health.rs",
            "filter/mod.rs",
            "filter/explain.rs",
        ],
    ),
];

pub struct Source {
    /// Below `src/`.
    pub path: String,
    /// Without comments.
    pub code: String,
}

pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code =
                    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, code });
            }
        }
    }
    assert!(sources.len() > 10, "only {} files", sources.len());
    sources
}

/// The room a file stands in; `None` for `main.rs` and `lib.rs`.
fn room(path: &str) -> Option<&'static str> {
    let first = path.split('/').next().unwrap().trim_end_matches(".rs");
    if matches!(first, "main" | "lib") {
        return None;
    }
    let room = ROOMS.into_iter().find(|room| *room == first);
    assert!(room.is_some(), "src/{path} stands in no known room; give it a place in the order");
    room
}

/// The first name after each `crate::`, braces looked into.
fn known_rooms(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push(identifier(rest)),
            Some(group) => found.extend(first_names(group)),
        }
    }
    found
}

/// The names that begin the items of a `{...}` group, its opening brace already taken.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut item_begins) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => item_begins = true,
            _ if character.is_whitespace() => {}
            _ if item_begins => {
                names.push(identifier(&group[at..]));
                item_begins = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// Whether the code has `library::` or `use library` with nothing before the name that makes it another.
fn names_library(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let (after, word_before) = (&code[at + library.len()..], code[..at].trim_end());
        let is_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '/');
        is_word && (after.starts_with("::") || (word_before.ends_with("use") && after.starts_with([';', ' '])))
    })
}

#[test]
fn the_reader_of_this_test_reads_uses() {
    let code = "use crate::{a::b, c::{d, e}, f};\nuse crate::g::{h, i};\nlet x = crate::j();\nuse crate::{\n    k,\n    l::m,\n};";
    assert_eq!(known_rooms(code), ["a", "c", "f", "g", "j", "k", "l"]);
    assert!(names_library("use axum::Router;", "axum"));
    assert!(names_library("let x: axum::Router", "axum"));
    assert!(!names_library("\"application/cloudevents+json\"; my_axum::x; crate::axum::x", "axum"));
    assert!(!names_library("\"application/cloudevents+json\"", "cloudevents"));
}

#[test]
fn no_room_knows_one_to_its_right() {
    let place = |room: &str| ROOMS.iter().position(|one| *one == room);
    for source in sources() {
        let Some(own) = room(&source.path) else { continue };
        for known in known_rooms(&source.code) {
            let Some(other) = place(&known) else { continue };
            assert!(Some(other) <= place(own), "src/{} knows {known}, which is right of {own}", source.path);
            assert!(!STRANGERS.contains(&(own, known.as_str())), "src/{} knows {known}", source.path);
        }
    }
}

#[test]
fn each_outside_library_is_named_in_its_own_room_only() {
    for source in sources() {
        for (library, places) in LIBRARIES {
            let allowed =
                source.path.ends_with("tests.rs") || places.iter().any(|place| source.path.starts_with(place));
            assert!(allowed || !names_library(&source.code, library), "src/{} names {library}", source.path);
        }
    }
}

#[test]
fn one_module_of_the_event_room_names_cloudevents() {
    let sources = sources();
    let mut naming: Vec<&str> = sources
        .iter()
        .filter(|source| names_library(&source.code, "cloudevents"))
        .map(|source| source.path.as_str())
        .collect();
    naming.sort_unstable();
    // Beside it the laws for fuzzing, which ask the SDK for its opinion.
    assert_eq!(naming, ["event/sdk.rs", "event/sdk/fuzz.rs"]);
}
