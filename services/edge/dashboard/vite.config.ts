import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { noProtobufJson } from "./tools/no-json.ts";

// For `npx vite`: the address of a running system. Its edge answers what the development server does not have.
const edge = process.env.SENSORMESH_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [svelte(), noProtobufJson()],
  server: { proxy: { "^/(sensormesh\\.|health)": edge } },
  build: {
    // The edge sends `default-src 'self'`: no inline script, no data: URL.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
});
