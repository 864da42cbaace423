//! The handbook's page about the command, from its definition.

use clap::{Arg, Command};

/// The page.
pub(super) fn page(mut command: Command) -> String {
    command.build();
    let mut text = String::from(
        "# The command `tranche`\n\n\
         The same text as `tranche COMMAND --help`; flags of every command are described once.\n\n\
         <!-- Derived from crates/tranche/src/cli.rs by `cargo xtask docs`; do not edit. -->\n",
    );
    section(&command, &mut text);
    text
}

fn section(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    text.push_str(&format!("\n## `{name}`\n\n"));
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("{}\n", about.trim_end()));
    if !command.has_subcommands() {
        let usage = command.clone().render_usage().to_string();
        text.push_str(&format!("\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ")));
    }
    let top = !name.contains(' ');
    let rows: Vec<String> = command.get_arguments().filter(|arg| is_described(arg, top)).map(row).collect();
    if !rows.is_empty() {
        text.push_str(&format!("\n| argument | meaning |\n| --- | --- |\n{}", rows.concat()));
    }
    if let Some(examples) = command.get_after_long_help() {
        text.push_str(&format!("\n```text\n{}\n```\n", examples.to_string().trim_end()));
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        section(below, text);
    }
}

/// Flags that every command has are described at the top only.
fn is_described(arg: &Arg, top: bool) -> bool {
    !["help", "version"].contains(&arg.get_id().as_str()) && (top || !arg.is_global_set())
}

fn row(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values();
    let values = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(|name| name.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        _ => String::new(),
    };
    let name = match (name.is_empty(), takes_value) {
        (true, _) => values,
        (false, true) => format!("{name} {values}"),
        (false, false) => name,
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut meaning = vec![help.replace('|', "\\|")];
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if takes_value && !choices.is_empty() {
        meaning.push(format!("One of {}", choices.join(", ")));
    }
    let default: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes_value && !default.is_empty() {
        meaning.push(format!("Default: `{}`", default.join(" ")));
    }
    if let Some(variable) = arg.get_env() {
        meaning.push(format!("Environment: `{}`", variable.to_string_lossy()));
    }
    format!("| `{name}` | {}. |\n", meaning.join(". "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use expect_test::expect;

    use super::*;

    /// Does things.
    #[derive(clap::Parser)]
    #[command(name = "thing")]
    struct Thing {
        /// Be loud
        #[arg(short, long, global = true)]
        loud: bool,
        #[command(subcommand)]
        sub: Sub,
    }

    #[derive(clap::Subcommand)]
    enum Sub {
        /// Makes one
        #[command(after_long_help = "Examples:\n  thing make 3")]
        Make {
            /// How many
            count: u8,
            /// Of what | size
            #[arg(long, default_value = "4", env = "SIZE")]
            size: u8,
        },
        /// Secret
        #[command(hide = true)]
        Hidden,
    }

    #[test]
    fn commands_are_described_with_arguments_and_examples_and_hidden_ones_are_not() {
        expect![[r#"
            # The command `tranche`

            The same text as `tranche COMMAND --help`; flags of every command are described once.

            <!-- Derived from crates/tranche/src/cli.rs by `cargo xtask docs`; do not edit. -->

            ## `thing`

            Does things

            | argument | meaning |
            | --- | --- |
            | `-l, --loud` | Be loud. |

            ## `thing make`

            Makes one

            ```text
            thing make [OPTIONS] <COUNT>
            ```

            | argument | meaning |
            | --- | --- |
            | `COUNT` | How many. |
            | `--size SIZE` | Of what \| size. Default: `4`. Environment: `SIZE`. |

            ```text
            Examples:
              thing make 3
            ```
        "#]]
        .assert_eq(&page(Thing::command()));
    }
}
