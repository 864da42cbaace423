//! Where a history is written, and what becomes of it when that fails.

use std::collections::BTreeMap;
use std::error::Error;

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::history::{Measured, Point, Retention, Window};
use tranche_store::{SampleFile, StoreError};

use crate::config::HistoryConfig;

/// The file of histories, as far as it can be had. It is tried again with each batch.
#[derive(Debug)]
pub(super) struct Place {
    dir: Utf8PathBuf,
    size_bytes_max: u64,
    /// Whether anything is written at all.
    is_wanted: bool,
    file: Option<SampleFile>,
    /// Whether it was said that it cannot be written: once is enough.
    is_complained: bool,
}

impl Place {
    pub(super) fn new(dir: &Utf8Path, config: &HistoryConfig) -> Self {
        let (dir, size_bytes_max) = (dir.to_owned(), config.size_mib_max << 20);
        let mut place =
            Self { dir, size_bytes_max, is_wanted: config.days > 0, file: None, is_complained: false };
        // What was measured before is shown from the start.
        place.open();
        place
    }

    /// Writes points, thins out what is there, and says whether that was done.
    pub(super) fn write(
        &mut self,
        points: &BTreeMap<Measured, Vec<Point>>,
        now_s: u64,
        retention: &Retention,
    ) -> bool {
        self.open();
        let Some(file) = &mut self.file else { return false };
        match file.add(points, now_s, retention) {
            Ok(()) => {
                if std::mem::take(&mut self.is_complained) {
                    tracing::info!("the history is written again");
                }
                true
            }
            Err(error) => {
                self.file = None;
                self.complain(&error);
                false
            }
        }
    }

    /// What was written of a part of a history; nothing where it cannot be read.
    pub(super) fn points(&mut self, measured: &Measured, window: &Window) -> Vec<Point> {
        let Some(file) = &self.file else { return Vec::new() };
        let read = file.points(measured, window.from_s(), window.to_s());
        read.unwrap_or_else(|error| {
            self.complain(&error);
            Vec::new()
        })
    }

    fn open(&mut self) {
        if !self.is_wanted || self.file.is_some() {
            return;
        }
        match SampleFile::open(&self.dir, self.size_bytes_max) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.complain(&error),
        }
    }

    /// Says once that it does not work. A file that never will is put aside, so that the next try begins a new one.
    fn complain(&mut self, error: &StoreError) {
        let error_in_words = error as &dyn Error;
        if matches!(error, StoreError::Corrupt { .. } | StoreError::Foreign { .. }) {
            self.file = None;
            match SampleFile::set_aside(&self.dir) {
                Ok(aside) => {
                    tracing::warn!(error = error_in_words, %aside, "the history cannot be read; a new one is begun");
                    return;
                }
                Err(error) => tracing::debug!(%error, "the history cannot be put aside"),
            }
        }
        if !std::mem::replace(&mut self.is_complained, true) {
            tracing::warn!(
                error = error_in_words,
                "the history cannot be written; memory has the last day of it"
            );
        }
    }
}
