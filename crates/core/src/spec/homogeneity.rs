//! Whether GPUs have to be alike.

use serde::{Deserialize, Serialize};

/// What is said to a wish with which GPUs that serve VMs would be less alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Homogeneity {
    /// It is taken with a warning.
    #[default]
    Warn,
    /// It is refused.
    Strict,
}

impl Homogeneity {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
