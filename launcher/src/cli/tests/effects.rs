//! docs/effects.md: that it has a row for whatever has an effect, and that the tests which it names are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::{flags, torchrun};
use crate::exit_code;

/// A row of a table: the words in backticks of its first cell, and of its last.
struct Row {
    items: Vec<String>,
    tests: Vec<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows below this heading.
fn rows(page: &str, heading: &str) -> Vec<Row> {
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/effects.md has no section `{heading}`"));
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        Row { items: quoted(cells[0]), tests: quoted(cells[cells.len() - 1]) }
    };
    rows.map(row).collect()
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/effects.md")).expect("the page is there")
}

#[track_caller]
fn check_items(rows: &[Row], wanted: impl Iterator<Item = String>) {
    let known: BTreeSet<&str> = rows.iter().flat_map(|row| &row.items).map(String::as_str).collect();
    let missing: Vec<String> = wanted.filter(|item| !known.contains(item.as_str())).collect();
    assert!(missing.is_empty(), "docs/effects.md has no row for {missing:?}");
    for row in rows {
        assert!(!row.tests.is_empty(), "docs/effects.md names no test for {:?}", row.items);
    }
}

fn options(command: &clap::Command) -> impl Iterator<Item = String> {
    command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
}

#[test]
fn every_option_and_exit_code_has_a_row() {
    let page = page();
    check_items(&rows(&page, "efarun's options"), options(&flags::command()));
    check_items(&rows(&page, "torchrun's options"), options(&torchrun::own_options()));
    check_items(&rows(&page, "Exit codes"), exit_code::TABLE.iter().map(|(code, _)| (*code).to_owned()));
    let recipes = rows(&page, "Recipes");
    for (origin, _) in super::recipes::RECIPES {
        let known = page.lines().any(|line| line.starts_with(&format!("| {origin} |")));
        assert!(known, "docs/effects.md has no row for {origin}");
    }
    check_items(&recipes, std::iter::empty());
    check_items(&rows(&page, "Hostfiles"), std::iter::empty());
    check_items(&rows(&page, "Endings"), std::iter::empty());
    check_items(&rows(&page, "Pains of other launchers"), (1..=25).map(|number| number.to_string()));
}

/// The sources below a path, one text.
fn sources(path: &Path) -> String {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("it is a folder");
        return entries.map(|entry| sources(&entry.expect("the folder is read").path())).collect();
    }
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    if is_rust { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// Whether one of these sources' tests, of whatever kind, has this name.
fn is_test_of(sources: &str, name: &str) -> bool {
    let signature = format!("fn {name}(");
    let is_it = |text: &str| {
        let text = text.trim_start();
        text.strip_prefix("async ").unwrap_or(text).starts_with(&signature)
    };
    // After whatever else the attribute says: `#[tokio::test(…)]`, `#[test]`.
    let kinds = ["#[test]", "#[tokio::test"];
    kinds.iter().any(|kind| {
        sources.split(kind).skip(1).any(|text| {
            is_it(text.split_once(']').filter(|_| *kind != "#[test]").map_or(text, |(_, rest)| rest))
        })
    })
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = page();
    let own = ["launcher/src", "launcher/tests"].map(|folder| sources(&repository().join(folder))).concat();
    let tests = page.lines().filter(|line| line.starts_with("| ")).flat_map(quoted);
    for test in tests.filter(|word| word.contains("::")) {
        let (program, name) = test.split_once("::").expect("it has a `::`");
        let of_program = repository().join("tests/tests").join(program);
        let of_program = || sources(&of_program) + &sources(&of_program.with_extension("rs"));
        let there = format!("#[test]\nfn {name}()");
        let found = if program == "efarun" { is_test_of(&own, name) } else { of_program().contains(&there) };
        assert!(found, "docs/effects.md names `{test}`, which is not there");
    }
}
