//! Behaviour of the core as a whole: wishes go in, plans come out, a model of hosts carries out the steps.

mod admitting;
mod all_gpus;
mod arriving;
mod departures;
mod devices;
mod drains;
mod falls;
mod fleet;
mod homogeneity;
mod leaving;
mod mixed;
mod mode_changes;
mod placing;
mod planning;
mod pools;
mod properties;
mod quality;
mod reloads;
mod remembering;
mod ruling;
mod shortage;
mod spare;
mod upgrading;
mod whereabouts;
mod world;
