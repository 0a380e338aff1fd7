//! `efarun completions`: that the shells themselves complete words by it.

use std::fs;
use std::path::Path;
use std::process::Command;

use efarun_tests::{Need, program, require};

/// What is typed, and what becomes of it at a press of the tab key.
const COMPLETED: [(&str, &str); 4] = [
    ("--hostf", "--hostfile"),
    ("--wait-f", "--wait-for-hosts"),
    ("transl", "translate"),
    ("completions zs", "completions zsh"),
];

/// Writes what `efarun completions` says for this shell into a file.
fn write_completions(shell: &str, path: &Path) {
    let launcher = Command::new(program!("efarun-under-test")).args(["completions", shell]).output();
    let output = launcher.expect("the launcher can be run");
    assert!(output.status.success(), "{output:?}");
    fs::write(path, output.stdout).expect("the folder is the test's");
}

/// Runs a script of this shell, and gives the lines that it wrote; it has 20 s.
fn run(shell: &[&str], script: &str) -> Vec<String> {
    let mut command = Command::new("timeout");
    let output = command.arg("20").args(shell).args(["-c", script]).output().expect("timeout(1) is there");
    assert!(output.status.success(), "{shell:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// On a terminal of zsh's own making, where efarun is a function that says what it was given.
#[test]
fn zsh_completes_words_by_what_it_was_given() {
    require!(Need::Shells);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    write_completions("zsh", &folder.path().join("_efarun"));
    let mut script = format!(
        r#"zmodload zsh/zpty; zpty shell "zsh -f -i"
        zpty -w shell "PS1=; fpath=({} \$fpath); autoload -U compinit; compinit -u -D; efarun() {{ print -r -- go\"\"t:\$*: }}; print read\"\"y"
        zpty -r shell said '*ready*'
        "#,
        folder.path().display()
    );
    for (typed, _) in COMPLETED {
        script += &format!(
            "zpty -w -n shell \"efarun {typed}\"$'\\t\\n'; zpty -r shell said '*got:*:*'\n\
             said=${{said##*got:}}; print -r -- ${{said%%:*}}\n"
        );
    }
    let completed: Vec<String> = run(&["zsh", "-f"], &script);
    let completed: Vec<&str> = completed.iter().map(|line| line.trim()).collect();
    assert_eq!(completed, COMPLETED.map(|(_, completed)| completed));
}

#[test]
fn fish_completes_words_by_what_it_was_given() {
    require!(Need::Shells);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("efarun.fish");
    write_completions("fish", &file);
    for (typed, completed) in COMPLETED {
        let script = format!("source {}; complete -C 'efarun {typed}'", file.display());
        let offered = run(&["fish", "--no-config"], &script);
        let words: Vec<&str> = offered.iter().filter_map(|line| line.split('\t').next()).collect();
        let word = completed.rsplit(' ').next().unwrap_or_default();
        assert_eq!(words, [word], "{typed}");
    }
}
