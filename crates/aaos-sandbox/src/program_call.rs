//! What is started under a permit: which program, with which arguments and variables, and what it may execute besides.
//!
//! Invariant: an agent's call is made from the permit of a tool and from nothing else; its program is the one of the grant
//! that the permit names. What an operator's own command starts is no agent's call, and made in `errand`.

use aaos_core::cargo::{BuiltTest, CargoInput, Toolchain};
use aaos_core::effect::{FileRight, Need};
use aaos_core::git::{GitDrivers, GitInput};
use aaos_core::known::KnownProgram;
use aaos_core::path::AbsPath;
use aaos_core::program::Executes;
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::{CommandRunInput, ToolFailure, ToolFailureKind};
use aaos_core::variables::Variables;
use aaos_core::world::World;
use aaos_journal::Permit;

/// One program that a permitted call starts.
#[derive(Debug, Clone)]
pub struct ProgramCall {
    pub(crate) input: CommandRunInput,
    pub(crate) environment: Vec<String>,
    pub(crate) executes: Executes,
    pub(crate) world: World,
    /// Whether the program is a granted one, and not something that a granted one has made.
    pub(crate) is_granted: bool,
}

impl ProgramCall {
    /// What is started.
    #[must_use]
    pub const fn program(&self) -> &AbsPath {
        &self.input.program
    }

    /// What is around it.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Whether what is started is itself granted, and what a person approved has to be it.
    #[must_use]
    pub const fn is_granted(&self) -> bool {
        self.is_granted
    }

    /// The program of a permitted `command_run`, with the variables of its agent.
    ///
    /// # Errors
    /// [`ToolFailure`] where the permit names no program.
    pub fn command(permit: &Permit<ToolCall>, variables: &Variables) -> Result<Self, ToolFailure> {
        let ToolInput::CommandRun(input) = &permit.effect().input else {
            return Err(ToolFailure::new(
                ToolFailureKind::UnknownTool,
                "only command_run starts any program",
            ));
        };
        let (_, world) = granted(permit)?;
        let (input, world) = (input.clone(), world.clone());
        Ok(Self {
            input,
            environment: variables.assignments(),
            executes: Executes::Shown,
            world,
            is_granted: true,
        })
    }

    /// The call of git that lists the filters of a repository.
    ///
    /// # Errors
    /// As for [`Self::command`].
    pub fn git_drivers(permit: &Permit<ToolCall>, input: &GitInput) -> Result<Self, ToolFailure> {
        let (program, world) = granted(permit)?;
        Ok(Self::sealed(input.drivers_command(program), input.environment(&GitDrivers::default()), world))
    }

    /// The call of git that was asked for, past these filters.
    ///
    /// # Errors
    /// As for [`Self::command`].
    pub fn git(
        permit: &Permit<ToolCall>,
        input: &GitInput,
        drivers: &GitDrivers,
    ) -> Result<Self, ToolFailure> {
        let (program, world) = granted(permit)?;
        Ok(Self::sealed(input.command(program), input.environment(drivers), world))
    }

    /// The call of cargo that was asked for.
    ///
    /// # Errors
    /// As for [`Self::command`].
    pub fn cargo(permit: &Permit<ToolCall>, input: &CargoInput) -> Result<Self, ToolFailure> {
        let (cargo, world) = granted_as(permit, KnownProgram::Cargo)?;
        let (rustc, beside) = granted_as(permit, KnownProgram::Rustc)?;
        let mut call = Self::of_cargo(input, Toolchain { cargo, rustc }, world);
        call.world.until = [world.until, beside.until].into_iter().flatten().min();
        Ok(call)
    }

    pub(crate) fn of_cargo(input: &CargoInput, toolchain: Toolchain<'_>, world: &World) -> Self {
        let environment = input.environment(toolchain);
        let mut world = World { network: false, ..world.clone() };
        // Beside a configuration that may be anybody's, nothing is changed that the call has no use for.
        world.roots.retain(|root| {
            root.right == FileRight::Read
                || input.written().any(|place| root.pattern.matches(place).is_some())
        });
        Self {
            input: input.command(toolchain.cargo),
            environment,
            executes: Executes::Shown,
            world,
            is_granted: true,
        }
    }

    /// A test that cargo has built, where nothing may be changed that is shown.
    ///
    /// # Errors
    /// As for [`Self::command`].
    pub fn cargo_test(
        permit: &Permit<ToolCall>,
        input: &CargoInput,
        built: &BuiltTest,
    ) -> Result<Self, ToolFailure> {
        let (_, world) = granted_as(permit, KnownProgram::Cargo)?;
        Ok(Self::of_test(input, built, world))
    }

    pub(crate) fn of_test(input: &CargoInput, built: &BuiltTest, world: &World) -> Self {
        let mut world = World { network: false, ..world.clone() };
        world.roots.retain(|root| root.right == FileRight::Read);
        let environment = vec![format!("CARGO_MANIFEST_DIR={}", built.package), "HOME=/tmp".to_owned()];
        Self { input: input.test(built), environment, executes: Executes::Shown, world, is_granted: false }
    }

    /// A program that executes nothing else and reaches no host, whatever is granted.
    pub(crate) fn sealed(input: CommandRunInput, environment: Vec<String>, world: &World) -> Self {
        let world = World { network: false, ..world.clone() };
        Self { input, environment, executes: Executes::Nothing, world, is_granted: true }
    }
}

/// The program that a permit lets start, and what is around it.
fn granted(permit: &Permit<ToolCall>) -> Result<(&AbsPath, &World), ToolFailure> {
    find_granted(permit, |_| true)
}

/// The same of several, by what it is.
fn granted_as(permit: &Permit<ToolCall>, known: KnownProgram) -> Result<(&AbsPath, &World), ToolFailure> {
    find_granted(permit, |program| known.is_at(program))
}

fn find_granted(
    permit: &Permit<ToolCall>,
    is_meant: impl Fn(&AbsPath) -> bool,
) -> Result<(&AbsPath, &World), ToolFailure> {
    let mut found = permit.all().iter().filter_map(|access| match &access.need {
        Need::Exec(program) if is_meant(program) => Some((program, access.world.as_deref()?)),
        _ => None,
    });
    let none = || ToolFailure::new(ToolFailureKind::Denied, "no grant was named for the program");
    found.next().ok_or_else(none)
}
