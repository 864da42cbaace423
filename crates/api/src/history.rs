//! How busy something was: `GET /v1/gpus/{host}/{address}/history` and `GET /v1/vms/{name}/history`.

use serde::{Deserialize, Serialize};
use tranche_core::history::{Figures, Quantity, Summary, Window};
use tranche_core::name::{HostName, Timestamp};

/// A part of the history that a host keeps, in steps of one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HistoryView {
    /// The host that measured it.
    pub host: HostName,
    /// Where the first step begins, in milliseconds since the Unix epoch.
    pub from: Timestamp,
    /// Where it ends, in milliseconds since the Unix epoch.
    pub to: Timestamp,
    /// How long each step is, in seconds.
    pub step_s: u64,
    /// When each step begins, in milliseconds since the Unix epoch.
    pub at: Vec<Timestamp>,
    /// One of each quantity that was measured: of a GPU, its own and then those of its partitions.
    pub series: Vec<SeriesView>,
}

/// What was measured of one quantity. Both lists are as long as `at`; a step in which nothing was measured has nulls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeriesView {
    /// The index of the partition of the GPU that it is about; none for the GPU, or the VM, itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u16>,
    /// What was measured.
    pub quantity: Quantity,
    /// The mean of the last step in which something was measured.
    pub last: u32,
    /// The mean of all steps.
    pub mean: u32,
    /// The highest that was measured.
    pub max: u32,
    /// The mean of each step.
    pub means: Vec<Option<u32>>,
    /// The highest of each step.
    pub maxima: Vec<Option<u32>>,
}

impl HistoryView {
    /// What a host has of a part of its history. Quantities of which nothing was measured are left out.
    pub fn new(
        host: HostName,
        window: &Window,
        histories: impl IntoIterator<Item = (Option<u16>, Vec<Figures>)>,
    ) -> Self {
        let ms = |at_s: u64| Timestamp(at_s.saturating_mul(1_000));
        let series = histories.into_iter().flat_map(|(partition, figures)| {
            Quantity::ALL.into_iter().filter_map(move |quantity| series(partition, quantity, &figures))
        });
        Self {
            host,
            from: ms(window.from_s()),
            to: ms(window.to_s()),
            step_s: window.step_s(),
            at: window.times_s().map(ms).collect(),
            series: series.collect(),
        }
    }
}

fn series(partition: Option<u16>, quantity: Quantity, figures: &[Figures]) -> Option<SeriesView> {
    let Summary { last, mean, max } = Summary::of(figures, quantity)?;
    let told = || figures.iter().map(|figures| figures.get(quantity));
    let means = told().map(|figure| figure.map(|figure| figure.mean)).collect();
    let maxima = told().map(|figure| figure.map(|figure| figure.max)).collect();
    Some(SeriesView { partition, quantity, last, mean, max, means, maxima })
}
