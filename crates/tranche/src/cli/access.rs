//! The command line of users, tokens and the audit log.

use clap::{Args, Subcommand};
use tranche_api::access::{TOKEN_DAYS_DEFAULT, TOKEN_DAYS_MAX};
use tranche_core::access::Role;
use tranche_core::label::Label;
use tranche_core::name::UserName;

/// People who use the console.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List the users
    List,
    /// Make a user known, and print a link to the console that logs in once
    ///
    /// Without a password, such a link is the only way in; whoever came in by one can be given a password, or another link.
    #[command(
        after_long_help = "Examples:\n  tranche user create alice --role admin\n  tranche user create bob --role viewer --password-stdin < bob.txt\n  tranche user create carol --role operator --vm-label team=red"
    )]
    Create {
        /// The name
        name: UserName,
        /// viewer: sees everything; operator: also makes, starts, stops and moves VMs; admin: may everything
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// Limit them to VMs that carry one of these labels, with commas between them; never with the role admin
        #[arg(long = "vm-label", value_delimiter = ',', value_name = "KEY=VALUE")]
        vm_labels: Vec<Label>,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Change what a user may do
    ///
    /// What is not named stays as it is.
    #[command(group(clap::ArgGroup::new("wish").required(true).multiple(true)))]
    Set {
        /// The user
        name: UserName,
        /// viewer, operator or admin
        #[arg(long, group = "wish")]
        role: Option<Role>,
        /// Limit them to VMs that carry one of these labels, with commas between them
        #[arg(long = "vm-label", value_delimiter = ',', value_name = "KEY=VALUE", group = "wish")]
        vm_labels: Vec<Label>,
        /// Limit them to no VMs any more
        #[arg(long, group = "wish", conflicts_with = "vm_labels")]
        no_vm_label: bool,
    },
    /// Set a user's password; it is asked for on a terminal. All sessions of the user end
    Password {
        /// The user
        name: UserName,
        /// Read it from standard input
        #[arg(long)]
        stdin: bool,
    },
    /// Print a link to the console that logs a user in, once, within 15 minutes
    Link {
        /// The user
        name: UserName,
    },
    /// Forget a user. All sessions of the user end
    Delete {
        /// The user
        name: UserName,
    },
}

/// Where a password comes from: never from the command line, which others can read.
#[derive(Debug, Clone, Copy, Args)]
pub struct PasswordArgs {
    /// Read a password from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

/// What programs show to the REST interface over HTTPS.
#[derive(Debug, Subcommand)]
pub enum ApiTokenCommand {
    /// List the tokens
    List,
    /// Make a token, and print what is sent as 'Authorization: Bearer'; it is shown only now
    #[command(
        after_long_help = "Examples:\n  tranche token create prometheus --role viewer --days 365 > /etc/prometheus/tranche.token"
    )]
    Create {
        /// What it is called
        name: UserName,
        /// viewer: sees everything; operator: also makes, starts, stops and moves VMs; admin: may everything
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// Limit it to VMs that carry one of these labels, with commas between them; never with the role admin
        #[arg(long = "vm-label", value_delimiter = ',', value_name = "KEY=VALUE")]
        vm_labels: Vec<Label>,
        /// For how many days it lasts
        #[arg(long, default_value_t = TOKEN_DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(TOKEN_DAYS_MAX)))]
        days: u32,
    },
    /// End a token for good
    Revoke {
        /// The token
        name: UserName,
    },
}
