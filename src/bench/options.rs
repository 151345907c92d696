//! The command line of `redrive bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Error, growth};
use crate::source::options::Mode;
use crate::units::{Limit, Span};

/// The options of every case.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The configuration whose store and source are measured
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "REDRIVE_CONFIG", default_value = "redrive.yaml", hide_env_values = true)]
    pub config: PathBuf,
    /// The source under test, where the configuration has several
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// How many messages: submitted (accept 500000, through and lag as many as fit into the time), waiting (drain and growth 1000000, idle 0)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub messages: Option<u64>,
    /// Connections to submit messages on, with one request under way on each (accept, through, lag)
    #[arg(long, value_name = "C", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Size of a message's payload, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub size: u32,
    /// How long delivered messages are kept, overriding the configuration: `0s` deletes them on delivery (not with --into)
    #[arg(long, value_name = "SPAN")]
    pub keep: Option<Limit>,
    /// Number of partitions of the Kafka topic that is made
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub partitions: u16,
    /// Use this schema (PostgreSQL), table prefix (MySQL, MariaDB) or file (SQLite), and this topic or queue; the benchmark removes nothing
    ///
    /// No messages may be waiting there, and nobody else may use it meanwhile. The benchmark's messages stay there for as long as the configuration
    /// keeps history. The database's limits are not measured, and messages in an AMQP queue are not counted.
    #[arg(long, value_name = "NAME", requires = "yes")]
    pub into: Option<String>,
    /// Confirm writing into what --into names
    #[arg(long, requires = "into")]
    pub yes: bool,
    /// Print one JSON object on stdout instead of a table, and no progress
    #[arg(long)]
    pub json: bool,
}

/// The form of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Body {
    /// The payload itself, to /v1/publish
    Raw,
    /// One JSON object, to /v1/messages
    Json,
    /// A hundred lines of JSON, to /v1/messages/batch
    Ndjson,
}

impl Body {
    /// Messages in one request.
    pub(super) const fn messages(self) -> usize {
        match self {
            Self::Raw | Self::Json => 1,
            Self::Ndjson => 100,
        }
    }
}

/// When a message is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Once it is committed
    #[value(name = "write_ahead")]
    WriteAhead,
    /// Once it is sent; it is committed only if that fails
    #[value(name = "on_failure")]
    OnFailure,
}

impl When {
    pub(super) const fn mode(self) -> Mode {
        match self {
            Self::WriteAhead => Mode::WriteAhead,
            Self::OnFailure => Mode::OnFailure,
        }
    }
}

/// `redrive bench accept`
#[derive(Args, Clone, Debug)]
pub struct Accept {
    #[command(flatten)]
    pub(super) common: Common,
    /// The form of a request
    #[arg(long, value_enum, default_value_t = Body::Raw)]
    pub body: Body,
    /// When a message is answered
    #[arg(long, value_enum, default_value_t = When::WriteAhead)]
    pub mode: When,
    /// Messages a second, instead of as many as are accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Meanwhile purge this many finished messages, put there beforehand; the same load without a purge comes first (write_ahead, not with --into)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub purge: u64,
}

/// `redrive bench drain`
#[derive(Args, Clone, Debug)]
pub struct Drain {
    #[command(flatten)]
    pub(super) common: Common,
    /// Number of sidecars on one database (not with SQLite)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub nodes: u32,
    /// Hold a snapshot open meanwhile, as a long report or backup does (PostgreSQL)
    #[arg(long)]
    pub hold_snapshot: bool,
}

/// `redrive bench through`
#[derive(Args, Clone, Debug)]
pub struct Through {
    #[command(flatten)]
    pub(super) common: Common,
    /// The form of a request
    #[arg(long, value_enum, default_value_t = Body::Raw)]
    pub body: Body,
    /// How long to run
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Messages a second, instead of as many as are accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
}

/// How messages come in for `redrive bench lag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The HTTP API, write-ahead
    Api,
    /// INSERT, one row per commit
    Sql,
}

/// `redrive bench lag`
#[derive(Args, Clone, Debug)]
pub struct Lag {
    #[command(flatten)]
    pub(super) common: Common,
    /// The form of a request
    #[arg(long, value_enum, default_value_t = Body::Raw)]
    pub body: Body,
    /// How long to run
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Messages a second
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// How messages come in
    #[arg(long, value_enum, default_value_t = Via::Api)]
    pub via: Via,
    /// `poller.interval`, overriding the configuration
    #[arg(long, value_name = "SPAN")]
    pub poll: Option<Span>,
}

/// `redrive bench growth`
#[derive(Args, Clone, Debug)]
pub struct Growth {
    #[command(flatten)]
    pub(super) common: Common,
    /// Finished messages beside them
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub finished: u64,
}

/// `redrive bench idle`
#[derive(Args, Clone, Debug)]
pub struct Idle {
    #[command(flatten)]
    pub(super) common: Common,
    /// How long to run
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
}

/// What is measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Case {
    /// How fast messages are accepted while nothing is sent; limit: batched INSERT alone
    Accept(Accept),
    /// How fast a backlog is sent; limit: the slower of claim and complete with SQL alone, and producing alone
    Drain(Drain),
    /// Messages come in and go out at the same time, for a while
    Through(Through),
    /// How long a message takes from due to delivered, at a steady rate
    Lag(Lag),
    /// What a claim costs in a large table; limit: the same in a table of 10000 rows
    Growth(Growth),
    /// What an idle sidecar costs
    Idle(Idle),
}

impl Case {
    /// The options of every case.
    #[must_use]
    pub const fn common(&self) -> &Common {
        match self {
            Self::Accept(it) => &it.common,
            Self::Drain(it) => &it.common,
            Self::Through(it) => &it.common,
            Self::Lag(it) => &it.common,
            Self::Growth(it) => &it.common,
            Self::Idle(it) => &it.common,
        }
    }

    /// Whether messages are sent.
    pub(super) const fn sends(&self) -> bool {
        match self {
            Self::Accept(it) => matches!(it.mode, When::OnFailure),
            Self::Drain(_) | Self::Through(_) | Self::Lag(_) => true,
            Self::Growth(_) | Self::Idle(_) => false,
        }
    }

    /// Refuses what would do harm in a place that is not the benchmark's own, and what makes no sense, before anything is made.
    pub(super) fn check(&self) -> Result<(), Error> {
        let why = match self {
            case if case.common().into.is_some() => case.harm(),
            Self::Accept(it) if it.purge > 0 && it.mode == When::OnFailure => Some("--purge requires --mode write_ahead".to_owned()),
            Self::Growth(it) if it.common.messages.is_some_and(|messages| messages < growth::LEAST) => {
                Some(format!("--messages: the claims that are timed take {}; with fewer, some of them would find nothing", growth::LEAST))
            }
            _ => None,
        };
        why.map_or(Ok(()), |why| Err(Error::Usage(why)))
    }

    /// The harm that the case would do to tables that are not its own.
    fn harm(&self) -> Option<String> {
        let why = match self {
            case if case.common().keep.is_some() => "--keep would delete the history of others; how long that is kept is up to the configuration",
            Self::Accept(it) if it.purge > 0 => "--purge would delete the history of others",
            Self::Accept(it) if it.mode == When::WriteAhead => {
                "accept leaves messages that are due in a month, and they would be sent then; omit --into, or add --mode on_failure"
            }
            Self::Idle(it) if it.common.messages.is_some() => "--messages leaves messages that are due in a month, and they would be sent then",
            Self::Growth(_) => "this case claims without sending, and does so only in a table of its own",
            _ => return None,
        };
        Some(format!("--into: {why}"))
    }
}
