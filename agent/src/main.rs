//! The `sotto` binary: parses the command line and hands over to [`sotto::app`].

use std::process::ExitCode;

use clap::Parser;
use sotto::config::{Cli, EXIT_USAGE};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => sotto::app::run(cli.command),
        Err(error) => {
            // Help and version are no mistakes; everything else is a mistake of usage.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}
