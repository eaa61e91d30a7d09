// A change of a contract alone: a new method is in the TypeScript client without a line written by hand.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const home = join(import.meta.dirname, "../..");

export default {
  "a new method in a contract is in the client": () => {
    const dir = mkdtempSync(join(tmpdir(), "sensormesh-contract-"));
    try {
      cpSync(join(home, "../../../proto"), join(dir, "proto"), { recursive: true });
      cpSync(join(home, "../../../buf.yaml"), join(dir, "buf.yaml"));
      const file = join(dir, "proto/sensormesh/rooms/v1/rooms.proto");
      const changed = readFileSync(file, "utf8").replace(
        "service RoomsService {",
        `service RoomsService {
  // Counts the rooms.
  rpc CountRooms(CountRoomsRequest) returns (CountRoomsResponse) {
    option (google.api.http) = {get: "/v1/rooms:count"};
    option (sensormesh.options.v1.policy) = {min_role: ROLE_VIEWER};
  }
`,
      );
      writeFileSync(
        file,
        `${changed}
// Asks for the number of rooms.
message CountRoomsRequest {}

// The number of rooms.
message CountRoomsResponse {
  // How many there are.
  uint32 rooms = 1;
}
`,
      );
      const plugin = join(home, "node_modules/.bin/protoc-gen-es");
      const template = { version: "v2", plugins: [{ local: plugin, out: join(dir, "gen"), include_imports: true, opt: ["target=ts"] }] };
      const buf = join(home, "node_modules/.bin/buf");
      execFileSync(buf, ["lint"], { cwd: dir, stdio: "pipe" });
      execFileSync(buf, ["generate", "--template", JSON.stringify(template)], { cwd: dir, stdio: "pipe" });
      const client = readFileSync(join(dir, "gen/sensormesh/rooms/v1/rooms_pb.ts"), "utf8");
      assert.match(client, /countRooms: \{\s*methodKind: "unary";\s*input: typeof CountRoomsRequestSchema;/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
};
