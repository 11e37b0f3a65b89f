//! The house's own rules, tested: which way the arrows point, how a file begins, how long it may be, what docs must name.
//!
//! Reads the source tree and nothing else. The rules are in CONTRIBUTING.md; a failure names file and line.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a room of the house")
        .to_owned()
}

const CRATES: [&str; 8] =
    ["xmpp", "config", "replication", "global-distrib", "s2s", "node", "tests", "tests/sim"];

/// Every file of the crates with one of these extensions, with its path from the root.
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    fn walk(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
        let mut entries: Vec<_> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, extensions, found);
            } else if path.extension().is_some_and(|x| extensions.iter().any(|e| x == *e)) {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root(), extensions, &mut paths);
    let named = |p: PathBuf| {
        let name =
            p.strip_prefix(root()).expect("it was found under the root").display().to_string();
        let text = fs::read_to_string(&p).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, text)
    };
    paths.into_iter().map(named).collect()
}

fn none_of(what: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{what}\n  {}", wrong.join("\n  "));
}

#[test]
fn arrows_point_one_way() {
    // What each crate may stand on; a new arrow is a decision, with its reason in docs/decisions/.
    let allowed = |name: &str| -> &[&str] {
        match name {
            "xmpp" => &[],
            "config" => &["xmpp"],
            "replication" | "s2s" => &["xmpp", "config"],
            "global-distrib" => &["xmpp", "config", "replication"],
            "node" => &["xmpp", "config", "replication", "global-distrib", "s2s"],
            // The simulator runs the real nodes inside itself: docs/decisions/0007.
            "tests/sim" => &["xmpp", "config", "replication", "global-distrib", "s2s", "node"],
            // The proof judges from outside: it links no crate of the server.
            _ => &[],
        }
    };
    let mut wrong = Vec::new();
    for name in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml"))
            .expect("each crate has a manifest");
        for line in manifest.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            // The package of `node` has the name of the product.
            let dependency = if dependency == "pangaea" { "node" } else { dependency };
            if CRATES.contains(&dependency) && !allowed(name).contains(&dependency) {
                wrong.push(format!("{name} → {dependency}"));
            }
        }
    }
    none_of("these arrows are not in the plan:", wrong);
}

#[test]
fn every_file_says_which_room_it_is() {
    let wrong = files(&["rs"]).into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none_of("these files do not open with //!", wrong.map(|(name, _)| name).collect());
}

#[test]
fn nothing_is_left_for_later() {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    let mut wrong = Vec::new();
    for (name, text) in files(&["rs"]) {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) && !line.trim_start().starts_with("//") {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none_of("these lines are not written yet:", wrong);
}

#[test]
fn no_file_is_longer_than_it_can_be_read() {
    const LINES_MAX: usize = 600;
    let mut wrong = Vec::new();
    for (name, text) in files(&["rs"]) {
        let is_test =
            name.contains("/tests/") || name.ends_with("/tests.rs") || name.starts_with("tests/");
        let lines = text.lines().take_while(|l| l.trim() != "#[cfg(test)]").count();
        if lines > LINES_MAX && !(is_test && lines <= 2 * LINES_MAX) {
            wrong.push(format!("{name}: {lines} lines"));
        }
    }
    none_of("look for the second noun in:", wrong);
}

#[test]
fn no_path_of_somebodys_machine_is_left() {
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/tmp/se", "ams"),
        concat!("/tmp/", "t/"),
    ];
    let mut wrong = Vec::new();
    for (name, text) in files(&["rs", "md", "toml", "py", "scn", "yml", "json"]) {
        for (number, line) in text.lines().enumerate() {
            if paths.iter().any(|p| line.contains(p)) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none_of("these lines name a path of one machine:", wrong);
}

#[test]
fn the_table_of_xeps_names_every_feature() {
    let table = fs::read_to_string(root().join("docs/xeps.md")).expect("docs/xeps.md is there");
    let features = fs::read_dir(root().join("node/src/features")).into_iter().flatten().flatten();
    let mut names: Vec<String> = features
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let wrong = names.into_iter().filter(|n| {
        !table.contains(&format!("`{n}`")) && !table.contains(&format!("features/{n}"))
    });
    none_of("docs/xeps.md does not name these folders of node/src/features:", wrong.collect());
}

#[test]
fn what_a_document_points_at_is_there() {
    let mut wrong = Vec::new();
    for (name, text) in files(&["md"]) {
        let dir = root().join(&name).parent().expect("a file stands in a directory").to_owned();
        for (number, line) in text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                if !path.is_empty() && !path.contains(':') && !dir.join(path).exists() {
                    wrong.push(format!("{name}:{}: {target}", number + 1));
                }
            }
        }
    }
    none_of("these links lead nowhere:", wrong);
}
