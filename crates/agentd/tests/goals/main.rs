//! Goals end to end: the real daemon, gateways and workers under a scripted model, and what a death leaves.

mod approvals;
mod budgets;
mod cancel;
mod cassettes;
mod crash;
mod deaths;
mod delegation;
mod documented;
mod fallback;
mod faults;
mod keyfiles;
mod kinds;
mod ladder;
mod local;
mod main_job;
mod observe;
mod otlp;
mod prefix;
mod probes;
mod provider;
mod pull;
mod storm;
mod support;
mod thinking;
mod verdict;
mod web;
