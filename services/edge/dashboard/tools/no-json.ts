// The clients speak the binary form only; protobuf's JSON form would be a twentieth of what a browser loads.

import type { Plugin } from "vite";

const names: Record<string, string[]> = {
  "from-json": ["fromJson", "fromJsonString", "mergeFromJson", "mergeFromJsonString", "enumFromJson", "isEnumJson"],
  "to-json": ["toJson", "toJsonString", "enumToJson"],
};

export function noProtobufJson(): Plugin {
  return {
    name: "no-protobuf-json",
    enforce: "pre",
    apply: "build",
    load(id) {
      const file = /@bufbuild\/protobuf\/dist\/esm\/(from-json|to-json)\.js$/.exec(id)?.[1];
      if (!file) return undefined;
      const missing = `const missing = () => { throw new Error("built without protobuf's JSON form: tools/no-json.ts"); };`;
      return `${missing} export { ${names[file]!.map((name) => `missing as ${name}`).join(", ")} };`;
    },
  };
}
