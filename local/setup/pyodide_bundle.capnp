@0xf3f1c6b02d5a8e47;
# The wire format in which workerd reads a Pyodide bundle. Only the field numbers and types matter:
# they are workerd's; the names are repeated here so that a dump of a bundle can be read.

struct Bundle {
  modules @0 :List(Module);

  struct Module {
    name @0 :Text;
    union {
      src @1 :Data;   # JavaScript
      wasm @4 :Data;
      data @5 :Data;
      json @6 :Text;
    }
    tsDeclaration @3 :Text;
    type @2 :ModuleType;
    compileCache @7 :Data;
  }

  enum ModuleType {
    bundle @0;
    builtin @1;
    internal @2;  # only the runtime's own modules may import it
  }
}
