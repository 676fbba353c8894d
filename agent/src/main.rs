//! The `sotto` binary: the CNI plugin if a runtime calls it; else it parses the command line and hands
//! over to [`sotto::app`].

use std::process::ExitCode;

use clap::Parser;
use sotto::config::{Cli, EXIT_USAGE, ztunnel};
use sotto::enroll::plugin;

fn main() -> ExitCode {
    if plugin::is_called() {
        return plugin::main();
    }
    let arguments = ztunnel::translate(std::env::args_os().collect(), &ztunnel::variables());
    match Cli::try_parse_from(arguments.all) {
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
