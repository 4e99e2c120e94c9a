//! The same as `handle.js`.

wit_bindgen::generate!({ path: "../world.wit", world: "app" });

struct App;
export!(App);

impl Guest for App {
    fn handle(input: String) -> Result<String, String> {
        if input.is_empty() {
            return Err("nothing to do".to_owned());
        }
        if input.starts_with("print") {
            println!("{input}");
        }
        Ok(input.to_uppercase())
    }
}
