//! Load tests for codex-reset-proxy: a faulty origin, a load generator, and a comparison with peers.
mod by_hand;
mod compare;
mod demo;
mod load;
mod machine;
mod origin;
mod pattern;
mod peers;
mod process;
mod relay;
mod report;
mod rescue;
mod results;
mod ring;
mod siege;
#[cfg(test)]
mod smuggling;
mod soak;

use std::{io, net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};

/// Load tests for codex-reset-proxy
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Compare the proxy with what is installed of nginx, HAProxy, Caddy and Envoy
    Compare(compare::Options),
    /// Show what each rescues of requests that hang, are reset or break off
    Rescue(rescue::Options),
    /// Everything that clients and an upstream do, good and bad, for ten minutes or as long as you like
    Soak(soak::Options),
    /// Greedy peers, and what those feel beside them, before the proxy and before nginx
    Siege(siege::Options),
    /// See in ten seconds what the proxy is for
    Demo,
    /// Run the origin: what it does is said by the path of each request
    Origin {
        #[arg(long, default_value = "127.0.0.1:9000")]
        listen: SocketAddr,
        /// Speak TLS, with a new CA, whose file is named at the start
        #[arg(long)]
        tls: bool,
        /// Run on this core only
        #[arg(long)]
        core: Option<usize>,
    },
    /// Run the load generator against something that stands before the origin
    Load(by_hand::Options),
    /// The floor of the comparison: pass on bytes, without HTTP
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        upstream: SocketAddr,
    },
}

fn main() -> ExitCode {
    let text = |error: io::Error| error.to_string();
    let done = match Cli::parse().command {
        Task::Compare(options) => compare::run(&options),
        Task::Rescue(options) => rescue::command(&options),
        Task::Soak(options) => soak::command(&options),
        Task::Siege(options) => siege::command(&options),
        Task::Demo => demo::run().map(|()| true),
        Task::Origin { listen, tls, core } => origin::serve(listen, core, tls)
            .map(|never| match never {})
            .map_err(text),
        Task::Load(options) => by_hand::load(options),
        Task::Relay { listen, upstream } => {
            relay::run(listen, upstream).map(|()| true).map_err(text)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
