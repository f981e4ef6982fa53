//! What the programs of `git` and `cargo` wrote, read by a worker.
//!
//! Invariant: it is as hostile as the repository or the package that they were started for, so nothing of it is
//! interpreted here; what the worker says of it is held against what it could be.

use aaos_core::cargo::{CargoInput, CargoTold};
use aaos_core::git::GitDrivers;
use aaos_core::toolio::{CommandRunOutput, ToolFailure};
use aaos_core::wire::{JobOutput, ToldBy, WorkerJob};

use crate::error::SandboxError;
use crate::worker::Worker;

impl Worker {
    /// The filters that a repository names, from git's list of its settings. Dropping the future condemns the worker.
    ///
    /// # Errors
    /// [`ToolFailure`] for a list that is too long, or a worker that is lost.
    pub async fn git_drivers(&mut self, listed: CommandRunOutput) -> Result<GitDrivers, ToolFailure> {
        match self.read_told(ToldBy::GitDrivers {}, listed).await? {
            JobOutput::GitDrivers(drivers) if drivers.is_usable() => Ok(drivers),
            _ => Err(self.broke(&SandboxError::Protocol { what: "no filters of a repository" }).await),
        }
    }

    /// What the caller of cargo is told of its call, and the tests that it built. Dropping the future condemns the worker.
    ///
    /// # Errors
    /// [`ToolFailure`] that says why cargo could not do it, or of a worker that is lost.
    pub async fn cargo_told(
        &mut self,
        input: &CargoInput,
        made: CommandRunOutput,
    ) -> Result<CargoTold, ToolFailure> {
        let tests_in = input.tests_in();
        let of = ToldBy::Cargo { subcommand: input.subcommand, tests_in: tests_in.cloned() };
        match self.read_told(of, made).await? {
            JobOutput::Cargo(told) if told.is_usable(tests_in) => Ok(told),
            _ => Err(self.broke(&SandboxError::Protocol { what: "no account of a call of cargo" }).await),
        }
    }

    async fn read_told(&mut self, of: ToldBy, output: CommandRunOutput) -> Result<JobOutput, ToolFailure> {
        self.ask("a look at what a program wrote", WorkerJob::ProgramTold { of, output }, Vec::new()).await
    }
}
