// Devices and sensors as they are now, by the contract's WatchDevices. One stream, only while a page shows them.

import { SvelteMap } from "svelte/reactivity";
import { resume, type StreamState } from "../../client-src/resume";
import type { Device, Sensor, WatchDevicesResponse } from "../gen/sensormesh/devices/v1/devices_pb";
import { devices, words } from "./api";

class Registry {
  devices = new SvelteMap<string, Device>();
  sensors = new SvelteMap<string, Sensor>();
  state = $state<StreamState>("connecting");
  ready = $state(false);
  failure = $state("");
  #unseen: Set<string> | undefined;

  /** Follows the registry until the returned function is called. */
  follow(): () => void {
    const stop = new AbortController();
    this.#run(stop.signal);
    return () => stop.abort();
  }

  async #run(signal: AbortSignal) {
    this.failure = "";
    const options = {
      signal,
      onState: (state: StreamState) => (this.state = state),
      onOpen: (cursor: string) => {
        if (!cursor) this.#forget();
      },
    };
    try {
      const open = (cursor: string, ended: AbortSignal) => devices.watchDevices({ cursor }, { signal: ended, timeoutMs: 0 });
      for await (const message of resume(open, options)) this.#take(message);
    } catch (error) {
      this.failure = words(error);
    }
  }

  #forget() {
    const known = [...this.devices.keys()].map((id) => `device ${id}`);
    this.#unseen = new Set(known.concat([...this.sensors.keys()].map((id) => `sensor ${id}`)));
  }

  #take({ event }: WatchDevicesResponse) {
    switch (event.case) {
      case "device":
        this.devices.set(event.value.deviceId, event.value);
        this.#unseen?.delete(`device ${event.value.deviceId}`);
        break;
      case "sensor":
        this.sensors.set(event.value.sensorId, event.value);
        this.#unseen?.delete(`sensor ${event.value.sensorId}`);
        break;
      case "deletedDeviceId":
        this.devices.delete(event.value);
        break;
      case "deletedSensorId":
        this.sensors.delete(event.value);
        break;
      case "bookmark":
        if (event.value.reset) {
          this.#forget();
          break;
        }
        for (const unseen of this.#unseen ?? []) {
          const id = unseen.slice("device ".length);
          (unseen.startsWith("device ") ? this.devices : this.sensors).delete(id);
        }
        this.#unseen = undefined;
        this.ready = true;
    }
  }
}

export const registry = new Registry();
