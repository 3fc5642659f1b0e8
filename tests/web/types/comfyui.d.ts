/**
 * What the scripts of this pack use of ComfyUI's frontend, and nothing else.
 *
 * `@found` is a JavaScript expression that gives such an object on the page. tests/workflows/test_frontend.py asks the
 * real frontend for every member listed here that is not optional, and names those that are gone.
 */

declare module "*/scripts/api.js" {
  export const api: ComfyApi
}

declare module "*/scripts/app.js" {
  export const app: ComfyApp
}

/** @found LiteGraph */
interface LiteGraphGlobal {
  /** Node classes by type: whether a node of a foreign workflow is installed. */
  registered_node_types: Record<string, unknown>
  /** Whether Nodes 2.0 draws the nodes. */
  vueNodesMode: boolean
}
declare const LiteGraph: LiteGraphGlobal

/** @found comfyAPI.api.api */
interface ComfyApi {
  fetchApi(route: string, options?: RequestInit): Promise<Response>
  apiURL(route: string): string
  addEventListener<T extends keyof ComfyMessages>(
    type: T,
    listener: (event: CustomEvent<ComfyMessages[T]>) => void,
  ): void
}

/** Messages of the server by type. Ids of nodes are execution ids. */
interface ComfyMessages {
  b_preview_with_metadata: { blob: Blob; displayNodeId: string; jobId: string }
  progress: { node: string; prompt_id: string; value: number; max: number }
  /** Sent by nodes/host after every step of a sampler. */
  "cogvideox.step": { display_node_id: string; prompt_id: string; step: number; steps: number; seconds_left: number }
  reconnected: unknown
  execution_success: { prompt_id: string }
  execution_error: { prompt_id: string }
  execution_interrupted: { prompt_id: string }
}

/** @found app */
interface ComfyApp {
  canvas: LGraphCanvas
  extensionManager: ComfyExtensionManager
  rootGraph: LGraph
  registerExtension(extension: ComfyExtension): void
}

/** Hooks that the frontend calls; `name` is what users see in the list of extensions. */
interface ComfyExtension {
  name: string
  setup?(): void | Promise<void>
  nodeCreated?(node: LGraphNode): void
  beforeConfigureGraph?(workflow: ComfyWorkflow): Promise<void>
  onNodeOutputsUpdated?(outputs: Record<string, unknown>): void
}

/** @found app.extensionManager */
interface ComfyExtensionManager {
  setting: ComfySettings
  toast: ComfyToasts
}

/** @found app.extensionManager.setting */
interface ComfySettings {
  get(id: "Comfy.Locale"): string
  get(id: "Comfy.Extension.Disabled"): string[] | undefined
  set(id: "Comfy.Extension.Disabled", value: string[]): Promise<void>
}

/** @found app.extensionManager.toast */
interface ComfyToasts {
  add(toast: ComfyToast): void
}

interface ComfyToast {
  severity: "success" | "info" | "warn" | "error"
  summary: string
  detail: string
  /** Milliseconds; without it the toast stays until it is closed. */
  life?: number
}

/** A workflow as it is saved. */
interface ComfyWorkflow {
  nodes?: Array<{ type: string; mode?: number } | null> | null
  definitions?: { subgraphs?: ComfyWorkflow[] }
  id?: string
  [key: string]: unknown
}

/** @found app.canvas */
interface LGraphCanvas {
  canvas: HTMLCanvasElement
  /** Whether the space key is down: dragging pans the canvas. */
  read_only: boolean
  setDirty(foreground: boolean, background: boolean): void
}

/** @found app.rootGraph */
interface LGraph {
  id: string
  nodes: LGraphNode[]
  getLink(id: number | null | undefined): LLink | undefined
  getNodeById(id: string | number): LGraphNode | null
}

interface LLink {
  origin_id: string | number
  origin_slot: number
}

/** @found new (LiteGraph.registered_node_types.CogVideoXVideoPlayer)() */
interface LGraphNode {
  id: string | number
  title: string
  size: [number, number]
  inputs: Array<{ link?: number | null }>
  widgets?: NodeWidget[]
  addDOMWidget(name: string, type: string, element: HTMLElement, options: NodeWidgetOptions): NodeWidget
  isSubgraphNode(): boolean
  removeWidget(widget: NodeWidget): void
  setDirtyCanvas(foreground: boolean, background: boolean): void
  setSize(size: [number, number]): void
  /** The graph that the node is in. */
  graph?: LGraph
  /** The graph inside of a subgraph node. */
  subgraph?: LGraph
  /** The node's id in the list of all nodes. */
  comfyClass?: string
  /** See web/js/parts/node_widget.js for these two. */
  hideOutputImages?: boolean
  isLoading?: boolean
  onAdded?: LGraphHandler
  onExecuted?: LGraphHandler
  onRemoved?: LGraphHandler
}

// biome-ignore lint/suspicious/noExplicitAny: handlers of several kinds
type LGraphHandler = (this: LGraphNode, ...values: any[]) => unknown

interface NodeWidget {
  name: string
  label?: string
  serialize?: boolean
  width?: number
}

interface NodeWidgetOptions {
  serialize: boolean
  hideOnZoom: boolean
  canvasOnly?: boolean
  margin?: number
  getMinHeight(): number
  getValue(): string
  setValue(value: string): void
  onDraw(): void
}
