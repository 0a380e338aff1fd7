//! `efarun completions SHELL` and `efarun man`: made from the options' definitions, so that they cannot fall behind.

use std::ffi::OsString;

use clap_complete::Shell;

use super::{CliExit, VARIABLES, config, flags, hosts, torchrun, translate};

/// The word that asks for completions.
pub(super) const SUBCOMMAND: &str = "completions";

/// The word that asks for the man page.
pub(super) const MAN_SUBCOMMAND: &str = "man";

/// Writes what makes a shell complete efarun's words.
pub(super) fn completions(words: impl Iterator<Item = OsString>) -> Result<String, CliExit> {
    let words: Vec<OsString> = words.collect();
    let shell = match &words[..] {
        [word] => SHELLS.iter().find(|(name, _)| *name == word),
        _ => None,
    };
    let Some((_, shell)) = shell else {
        let names: Vec<&str> = SHELLS.iter().map(|(name, _)| *name).collect();
        return Err(CliExit::Subcommand {
            problem: format!(
                "`efarun {SUBCOMMAND}` takes a shell's name: {}\n  hint: efarun {SUBCOMMAND} bash > ~/.local/share/bash-completion/completions/efarun",
                names.join(", ")
            ),
        });
    };
    let mut text = Vec::new();
    clap_complete::generate(*shell, &mut described(), "efarun", &mut text);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if *shell == Shell::Fish {
        // What is no option is left out for fish.
        let names: Vec<&str> = SHELLS.iter().map(|(name, _)| *name).collect();
        text += &format!(
            "complete -c efarun -n \"__fish_seen_subcommand_from {SUBCOMMAND}\" -f -a \"{}\"\n",
            names.join(" ")
        );
    }
    Ok(text)
}

/// Writes the man page, as roff.
pub(super) fn man() -> Result<String, CliExit> {
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(described()).title("EFARUN").manual("User Commands");
    page.render(&mut text).map_err(|error| CliExit::Other { text: format!("the man page: {error}") })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The definitions with the subcommands, which are not clap's to parse.
fn described() -> clap::Command {
    let command = flags::described();
    let subcommand = |name: &'static str, about: &'static str| {
        clap::Command::new(name).about(about).disable_help_flag(true).disable_version_flag(true)
    };
    let shells = SHELLS.iter().map(|(name, _)| *name);
    command.disable_help_subcommand(true).subcommands([
        subcommand(translate::SUBCOMMAND, "Says what becomes of another launcher's line"),
        subcommand(hosts::SUBCOMMAND, "Converts a list of hosts to another launcher's form"),
        subcommand(torchrun::SUBCOMMAND, "Takes torchrun's lines"),
        subcommand(VARIABLES, "Says what is done about each variable of libfabric's"),
        subcommand(config::SUBCOMMAND, "Shows every option's default, and where it comes from"),
        subcommand(SUBCOMMAND, "Writes completions for a shell")
            .arg(clap::Arg::new("SHELL").value_parser(clap::builder::PossibleValuesParser::new(shells))),
        subcommand(MAN_SUBCOMMAND, "Writes this page"),
    ])
}

const SHELLS: &[(&str, Shell)] = &[("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn of(shell: &str) -> String {
        completions([OsString::from(shell)].into_iter()).unwrap()
    }

    /// What bash offers for the last of these words.
    fn offered(words: &str) -> Vec<String> {
        let script = format!(
            "{}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             registered=$(complete -p efarun); function=${{registered#*-F }}\n\
             ${{function%% *}} efarun \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            of("bash")
        );
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash is there");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_options_and_subcommands() {
        assert_eq!(offered("efarun --hostf"), ["--hostfile"]);
        assert_eq!(offered("efarun transl"), ["translate"]);
        let offered = offered("efarun --on");
        assert!(offered.contains(&"--on-failure".to_owned()), "{offered:?}");
    }

    #[test]
    fn every_shell_knows_every_option() {
        for shell in ["bash", "zsh", "fish"] {
            let text = of(shell);
            for arg in flags::command().get_arguments() {
                let long = arg.get_long().unwrap();
                assert!(text.contains(long), "{shell} lacks --{long}");
            }
        }
        assert!(completions([OsString::from("csh")].into_iter()).is_err());
    }

    #[test]
    fn man_page_has_options_and_exit_codes() {
        let page = man().unwrap();
        assert!(page.contains(".TH EFARUN"), "{page}");
        for text in ["Exit codes", "110", "EFARUN_START_TIMEOUT"] {
            assert!(page.contains(text), "the page lacks {text}");
        }
        let command = described();
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let entry = format!("\\fB\\-\\-{}\\fR", option.replace('-', "\\-"));
            assert!(page.contains(&entry), "the page lacks {entry}");
        }
        for subcommand in command.get_subcommands() {
            let entry = format!("efarun\\-{}(1)", subcommand.get_name());
            assert!(page.contains(&entry), "the page lacks {entry}");
        }
    }
}
