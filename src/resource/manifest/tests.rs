//! Owns the checks of files and directories, and of noticing their changes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Nothing in these tests takes longer.
const SOON: Duration = Duration::from_secs(20);

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// File name, index and value of all documents.
fn loaded(paths: &[PathBuf]) -> Vec<(String, usize, serde_json::Value)> {
    let name = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
    load(paths).unwrap().into_iter().map(|document| (name(&document.file), document.index, document.value)).collect()
}

/// The faults without the folder.
fn faults(directory: &TempDir) -> Vec<String> {
    let folder = format!("{}/", directory.path().display());
    let faults = load(&[directory.path().to_owned()]).unwrap_err();
    faults.iter().map(|fault| fault.to_string().replace(&folder, "")).collect()
}

#[test]
fn documents_of_files_and_directories_come_in_the_order_of_their_names() {
    let directory = directory(&[
        ("b.yaml", "# comment\n---\na: 1\n---\n---\n~\n---\na: 2\n"),
        ("a.json", "{\n\t\"a\": [0]\n}"),
        ("c.yml", "a: &x {b: yes, c: '1'}\nd: *x\n"),
        ("d.txt", "not: read"),
        (".hidden.yaml", "not: read"),
        ("empty.yaml", ""),
    ]);
    fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    fs::write(directory.path().join("sub.yaml/e.yaml"), "not: read").unwrap();
    let expected = [
        ("a.json".to_owned(), 1, json!({ "a": [0] })),
        ("b.yaml".to_owned(), 1, json!({ "a": 1 })),
        ("b.yaml".to_owned(), 4, json!({ "a": 2 })),
        ("c.yml".to_owned(), 1, json!({ "a": { "b": true, "c": "1" }, "d": { "b": true, "c": "1" } })),
    ];
    assert_eq!(loaded(&[directory.path().to_owned()]), expected);

    let named = directory.path().join("d.txt");
    assert_eq!(loaded(std::slice::from_ref(&named)), [("d.txt".to_owned(), 1, json!({ "not": "read" }))]);
    assert_eq!(load(std::slice::from_ref(&named)).unwrap()[0].file, named.display().to_string());
}

#[test]
fn each_file_and_document_that_cannot_be_read_is_a_fault_of_its_own() {
    let directory = directory(&[
        ("a.yaml", "ok: 1\n---\nx:\n  k: 1\n  k: 2\n---\n[\n---\nok: 2\n"),
        ("b.yaml", "a: b: c\n"),
        ("c.yaml", "a: .nan\n"),
    ]);
    fs::write(directory.path().join("d.yaml"), b"a: \xff\n").unwrap();
    let faults = faults(&directory);
    assert_eq!(faults.len(), 5, "{faults:#?}");
    assert!(
        faults[0].starts_with("a.yaml: document 2: is not valid YAML: ") && faults[0].ends_with("(line 5, column 3)"),
        "{faults:#?}"
    );
    assert!(faults[0].contains("duplicate"), "{faults:#?}");
    assert!(faults[1].starts_with("a.yaml: document 3: is not valid YAML: "), "{faults:#?}");
    assert!(faults[2].starts_with("b.yaml: document 1: ") && faults[2].contains("(line 1, "), "{faults:#?}");
    assert!(faults[3].starts_with("c.yaml: document 1: "), "{faults:#?}");
    assert_eq!(faults[4], "d.yaml: is not UTF-8, expected YAML or JSON");
    assert!(faults.iter().all(|fault| fault.lines().count() == 1), "{faults:#?}");

    let (documents, faults) = read_documents(&directory);
    assert_eq!((documents, faults), (2, 5));
}

fn read_documents(directory: &TempDir) -> (usize, usize) {
    let (documents, faults) = super::read(&[directory.path().to_owned()]);
    (documents.len(), faults.len())
}

#[test]
fn a_path_that_is_missing_or_no_file_is_a_fault() {
    let directory = directory(&[]);
    let missing = directory.path().join("missing.yaml");
    let faults = load(&[missing.clone(), "/dev/null".into(), directory.path().to_owned()]).unwrap_err();
    assert_eq!(faults.len(), 2);
    assert_eq!(faults[0].file, missing.display().to_string());
    assert_eq!(faults[0].document, None);
    assert!(faults[0].message.starts_with("cannot be read: "), "{}", faults[0]);
    assert!(faults[1].message.contains("not a regular file"), "{}", faults[1]);
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let directory = directory(&[]);
    let file = File::create(directory.path().join("a.yaml")).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert_eq!(faults(&directory), ["a.yaml: cannot be read: larger than 16 MiB"]);
}

#[test]
fn an_alias_bomb_is_refused_and_not_unfolded() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let directory = directory(&[("one.yaml", &bomb), ("self.yaml", "a: &a [*a]"), ("deep.yaml", &"[".repeat(100_000))]);
    // Unfolded, the first would have 10^12 elements.
    assert_eq!(faults(&directory).len(), 3);
}

#[test]
fn a_file_of_many_broken_or_many_documents_is_not_read_to_its_end() {
    let directory = directory(&[("broken.yaml", &"---\n[\n".repeat(30)), ("many.yaml", &"---\na: 1\n".repeat(1025))]);
    let faults = faults(&directory);
    assert_eq!(faults.len(), 20 + 1 + 1);
    for (fault, start) in
        [(&faults[20], "broken.yaml: document 21: is not read"), (&faults[21], "many.yaml: document 1025: is not read")]
    {
        assert!(fault.starts_with(start), "{fault}");
    }
}

#[test]
fn no_text_makes_the_loader_panic() {
    for text in [
        "---",
        "--- ---",
        "...",
        "%",
        "%YAML 9\n---\n",
        "? ",
        "- - -",
        "!!binary x",
        "&",
        "*",
        "\u{feff}\u{feff}",
        "\0",
        "--- |\n---\n",
    ] {
        let (mut documents, mut faults) = (Vec::new(), Vec::new());
        yaml::parse("f", text, &mut documents, &mut faults);
    }
}

/// Waits for a change; what happens in `act` must be it.
async fn sees_change(watcher: &mut Watcher, act: impl FnOnce()) {
    act();
    tokio::time::timeout(SOON, watcher.changed()).await.unwrap();
}

/// Whether a change shows within some readings.
async fn is_quiet(watcher: &mut Watcher) -> bool {
    tokio::time::timeout(Duration::from_millis(60), watcher.changed()).await.is_err()
}

fn watch(paths: &[PathBuf]) -> Watcher {
    Watcher::with_interval(paths, Duration::from_millis(5))
}

#[tokio::test]
async fn the_watcher_sees_files_that_appear_change_and_go() {
    let directory = directory(&[("a.yaml", "a: 1")]);
    let path = |name: &str| directory.path().join(name);
    let mut watcher = watch(&[directory.path().to_owned()]);
    sees_change(&mut watcher, || fs::write(path("a.yaml"), "a: 2").unwrap()).await;
    sees_change(&mut watcher, || fs::write(path("b.yaml"), "").unwrap()).await;
    sees_change(&mut watcher, || fs::rename(path("b.yaml"), path("c.yaml")).unwrap()).await;
    // An editor that writes beside and renames over.
    sees_change(&mut watcher, || {
        fs::write(path(".a.yaml.swp"), "a: 3").unwrap();
        fs::rename(path(".a.yaml.swp"), path("a.yaml")).unwrap();
    })
    .await;
    sees_change(&mut watcher, || fs::remove_file(path("c.yaml")).unwrap()).await;
    sees_change(&mut watcher, || fs::remove_dir_all(directory.path()).unwrap()).await;
    sees_change(&mut watcher, || {
        fs::create_dir(directory.path()).unwrap();
        fs::write(path("a.yaml"), "a: 3").unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_watcher_is_quiet_while_contents_stay_the_same() {
    let directory = directory(&[("a.yaml", "a: 1")]);
    let path = |name: &str| directory.path().join(name);
    let mut watcher = watch(&[directory.path().to_owned(), path("later.yaml")]);
    fs::write(path("a.yaml"), "a: 1").unwrap();
    fs::write(path("notes.txt"), "not a manifest").unwrap();
    fs::write(path(".hidden.yaml"), "a: 1").unwrap();
    assert!(is_quiet(&mut watcher).await);
    sees_change(&mut watcher, || fs::write(path("later.yaml"), "a: 1").unwrap()).await;
    assert!(is_quiet(&mut watcher).await);
}

/// As the kubelet does it: the names point through `..data`, which is replaced by a rename.
#[cfg(unix)]
#[tokio::test]
async fn the_watcher_sees_the_symlink_swap_of_a_config_map() {
    use std::os::unix::fs::symlink;

    let directory = directory(&[]);
    let path = |name: &str| directory.path().join(name);
    for (version, text) in [("..v1", "a: 1"), ("..v2", "a: 2")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("a.yaml"), text).unwrap();
    }
    symlink("..v1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    assert_eq!(loaded(&[directory.path().to_owned()]), [("a.yaml".to_owned(), 1, json!({ "a": 1 }))]);

    let mut watcher = watch(&[directory.path().to_owned()]);
    sees_change(&mut watcher, || {
        symlink("..v2", path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
    })
    .await;
    assert_eq!(loaded(&[directory.path().to_owned()]), [("a.yaml".to_owned(), 1, json!({ "a": 2 }))]);
}
