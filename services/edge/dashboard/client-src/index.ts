// The contracts of sensormesh for browsers and Node.js.

export * from "./connect.js";
export * from "./resume.js";
export * from "./gen/sensormesh/adapters/v1/adapters_pb.js";
export * from "./gen/sensormesh/auth/v1/auth_pb.js";
export * from "./gen/sensormesh/commissioning/v1/commissioning_pb.js";
export * from "./gen/sensormesh/devices/v1/devices_pb.js";
export * from "./gen/sensormesh/edge/v1/edge_pb.js";
export * from "./gen/sensormesh/mesh/v1/mesh_pb.js";
export * from "./gen/sensormesh/options/v1/policy_pb.js";
export * from "./gen/sensormesh/rooms/v1/rooms_pb.js";
export * from "./gen/sensormesh/telemetry/v1/columns_pb.js";
export * from "./gen/sensormesh/telemetry/v1/telemetry_pb.js";
export * from "./gen/sensormesh/types/v1/stream_pb.js";
export { timestampDate, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
export { Code, ConnectError } from "@connectrpc/connect";
