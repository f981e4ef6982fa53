//! Goals end to end: the real daemon, gateways and workers under a scripted model; and what is left when one dies.

mod cancel;
mod crash;
mod deaths;
mod delegation;
mod kinds;
mod main_job;
mod provider;
mod support;
mod verdict;
mod web;
