//! `completions SHELL`: what a shell needs to complete this command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::CliError;
use super::output::Output;
use super::{Cli, NAME};

/// Print what a shell needs to complete this command line.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models completions bash > ~/.local/share/bash-completion/completions/imageworks-models
  imageworks-models completions zsh > ~/.zfunc/_imageworks-models
  imageworks-models completions fish > ~/.config/fish/completions/imageworks-models.fish")]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args, out: &Output) -> Result<(), CliError> {
    out.text(&script(args.shell))
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    // For a program with a hyphen in its name clap_complete 4.6 looks for other states than it
    // sets, and completes no verb's options (clap-rs/clap issue 6421).
    script.replace("imageworks__subcmd__models", "imageworks__models")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_finds_the_options_of_every_verb() {
        let script = script(Shell::Bash);
        let set = script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\""));
        let states: Vec<&str> = set.filter_map(|line| line.strip_suffix('"')).collect();
        assert!(states.len() > 10, "{states:?}");
        for state in states.iter().filter(|state| !state.is_empty()) {
            assert!(script.contains(&format!("        {state})\n")), "{state}");
        }
        assert!(script.contains("--no-wait") && script.contains("-F _imageworks__models"));
    }
}
