//! The flags that say how deliveries leave: whom sinks may be signed by, who we are to them, and which addresses they may have.

use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;

use super::Usage;
use crate::sink::{Files, Guard, client, parse_network};

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Certificate authorities that sinks may be signed by, beside those of the system (PEM); read again when it changes
    #[arg(long, value_name = "FILE")]
    pub sink_ca_file: Option<PathBuf>,
    /// Client certificate for sinks (PEM), with --sink-client-key-file; read again when it changes
    #[arg(long, value_name = "FILE", requires = "sink_client_key_file")]
    pub sink_client_cert_file: Option<PathBuf>,
    /// Key of the client certificate for sinks (PEM)
    #[arg(long, value_name = "FILE", requires = "sink_client_cert_file")]
    pub sink_client_key_file: Option<PathBuf>,
    /// Which addresses deliveries may go to
    #[arg(long, value_enum, default_value_t = Addresses::Any)]
    pub sink_addresses: Addresses,
    /// Networks and addresses that deliveries may go to although they are not public
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    pub sink_allow: Vec<IpNet>,
}

/// Which addresses sinks may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Addresses {
    /// All
    Any,
    /// Public ones: not loopback, private, link-local, metadata, multicast and the like
    Public,
}

impl Args {
    /// # Errors
    /// When flags contradict each other.
    pub(super) fn settings(&self) -> Result<client::Settings, Usage> {
        let guard = match self.sink_addresses {
            Addresses::Any if !self.sink_allow.is_empty() => {
                let text = "--sink-allow makes exceptions from --sink-addresses public, which is not set";
                return Err(Usage(text.to_owned()));
            }
            Addresses::Any => Guard::Any,
            Addresses::Public => Guard::Public(self.sink_allow.clone()),
        };
        let client = self.sink_client_cert_file.clone().zip(self.sink_client_key_file.clone());
        Ok(client::Settings { files: Files { authorities: self.sink_ca_file.clone(), client }, guard })
    }
}
