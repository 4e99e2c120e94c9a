//! Lua 5.4 by mlua, with the libraries that reach nothing outside.

use super::{MEMORY, TIME, case};
use crate::cases::Case;
use mlua::{Error, Function, HookTriggers, Lua, LuaOptions, LuaString, StdLib, VmState};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

pub fn cases(text: &'static [u8]) -> Vec<Case> {
    let warm = State::new();
    vec![case("lua_fresh", text, |text| State::new().call(text)), case("lua_warm", text, move |text| warm.call(text))]
}

struct State {
    lua: Lua,
    transform: Function,
    deadline: Rc<Cell<Instant>>,
}

impl State {
    fn new() -> State {
        let libraries = StdLib::COROUTINE | StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default()).unwrap();
        lua.set_memory_limit(MEMORY).unwrap();
        let deadline = Rc::new(Cell::new(Instant::now() + TIME));
        let until = deadline.clone();
        let triggers = HookTriggers::new().every_nth_instruction(10_000);
        lua.set_global_hook(triggers, move |_, _| match Instant::now() < until.get() {
            true => Ok(VmState::Continue),
            false => Err(Error::runtime("out of time")),
        })
        .unwrap();
        let transform = lua.load("return function(text) return text:upper() end").eval().unwrap();
        State { lua, transform, deadline }
    }

    fn call(&self, text: &[u8]) -> Vec<u8> {
        self.deadline.set(Instant::now() + TIME);
        let text = self.lua.create_string(text).unwrap();
        self.transform.call::<LuaString>(text).unwrap().as_bytes().to_vec()
    }
}
