//! The tests of the programs as they run, in one binary: a folder that is linked once, and tests of different files
//! side by side. What a test needs for itself alone (a limit, a folder, a port) it takes for itself alone.

#![cfg(test)]

mod common;

mod activation;
mod adopted_programs;
mod adoption;
mod analysis;
mod applications;
mod applications_reload;
mod conformance;
mod control;
mod ctl;
mod documents;
mod doors;
mod drain;
mod dropped;
mod endings;
mod example_units;
mod examples;
mod files;
mod flows;
mod health;
mod home;
mod http;
mod idle;
mod import;
mod intercept;
mod intercept_programs;
mod lasting;
mod layering;
mod load;
mod logs;
mod man;
mod memory;
mod metrics;
mod names;
mod neighbours;
mod notify;
mod packaging;
mod page;
mod pid1;
mod places;
mod releases;
mod releases_flows;
mod releases_languages;
mod reload;
mod repair;
mod rollback;
mod scale;
mod sdk;
mod sdk_packages;
mod security;
mod server_starter;
mod signals;
mod slots;
mod srp;
mod startup;
mod strategies;
mod supervision;
mod terminal;
mod unit_files;
mod upgrade;
mod watch;
mod workers;
