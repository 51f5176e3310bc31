//! docs/guarantees.md names a test behind each sentence: these tests exist.

use std::path::Path;

/// All `` `file::test` `` in the document.
fn named(document: &str) -> Vec<(&str, &str)> {
    document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(file, test)| (is_name(file) || file.starts_with("src/")) && is_name(test) && *test != "test")
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A test by its name, or one of several that a macro makes from a list of names.
fn holds(text: &str, test: &str) -> bool {
    let words = || text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    text.contains(&format!("fn {test}()")) || (text.contains("macro_rules!") && words().any(|word| word == test))
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let named = named(&document);
    assert!(named.len() > 50, "{} tests are named", named.len());
    for (file, test) in named {
        let places = [format!("tests/{file}.rs"), format!("tests/{file}/mod.rs"), file.to_owned()];
        let text = places.iter().find_map(|place| std::fs::read_to_string(root.join(place)).ok());
        let text = text.unwrap_or_else(|| panic!("`{file}::{test}`: neither of {places:?} is there"));
        assert!(holds(&text, test), "`{file}::{test}`: no such test");
    }
}

#[test]
fn every_sentence_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let sentences: Vec<&str> = document.split("\n- ").skip(1).collect();
    assert!(sentences.len() > 20);
    for sentence in sentences {
        let item = sentence.split("\n\n").next().unwrap();
        assert!(!named(&format!(" {item}")).is_empty(), "no test behind: {item}");
    }
}
