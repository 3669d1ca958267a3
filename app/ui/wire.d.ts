// The wire models of /api/v1 that the page uses, as far as it uses them. A test compares the names of the fields
// with the server's schema.

export interface ErrorDetail {
  code: string;
  message: string;
  hint?: string | null;
  retry_after?: number | null;
}

export interface RunningTurn {
  message_id: string;
  conversation_id: string;
  conversation: ConversationSummary;
  parent_id: string | null;
  question: string | null;
  continues: string | null;
}

export interface RunningTurnsResponse {
  turns: RunningTurn[];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
}

export interface Timings {
  queue_s: number;
  first_token_s: number;
  total_s: number;
  tokens_per_second: number | null;
}

export interface TextPart {
  type: "text";
  text: string;
}

export interface ThinkingPart {
  type: "thinking";
  text: string;
}

export interface ToolCallPart {
  type: "tool_call";
  id: string;
  name: string;
  arguments: string;
}

export interface ToolResultPart {
  type: "tool_result";
  id: string;
  content: string;
}

export type MessagePart = TextPart | ThinkingPart | ToolCallPart | ToolResultPart;
export type FinishReason = "stop" | "length" | "interrupted" | "tool_calls" | string;

export interface ConversationMessage {
  id: string;
  parent_id: string | null;
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  parts: MessagePart[];
  siblings: string[];
  position: number;
  timestamp: string;
  model_name: string | null;
  finish_reason: FinishReason | null;
  usage: Usage | null;
  timings: Timings | null;
}

export interface ConversationResponse {
  conversation_id: string;
  title: string | null;
  system_prompt: string;
  model_name: string | null;
  created_at: string;
  updated_at: string;
  head_id: string | null;
  message_count: number;
  messages: ConversationMessage[];
}

export interface ConversationSummary {
  conversation_id: string;
  title: string | null;
  created_at: string;
  updated_at: string;
  message_count: number;
  preview: string;
}

export interface ConversationListResponse {
  conversations: ConversationSummary[];
  total: number;
  next_cursor: string | null;
}

export interface DeletedAllResponse {
  deleted: number;
  kept: number;
}

export interface NewChatResponse {
  conversation_id: string;
  title: string | null;
  system_prompt: string;
}

export interface LoadProgress {
  model_name: string;
  stage: string;
  fraction: number;
  done_bytes: number | null;
  total_bytes: number | null;
  bytes_per_s: number | null;
  seconds_left: number | null;
  note: string | null;
}

export interface ModelEntry {
  name: string;
  display_name: string;
  status: "available" | "loading" | "loaded" | "failed";
  is_current: boolean;
  is_on_disk: boolean;
  description: string;
  context_length: number;
  size_bytes: number | null;
  memory_bytes: number | null;
  is_too_large: boolean;
  progress: LoadProgress | null;
  error: string | null;
}

export interface ModelListResponse {
  models: ModelEntry[];
  current_model: string | null;
}

export interface SamplingValue {
  value: number;
  origin: "profile" | "generation_config" | "default";
}

export interface ModelInfoResponse {
  model_name: string;
  display_name: string;
  loaded: boolean;
  context_length: number;
  sampling: Record<string, SamplingValue> | null;
}

export interface HealthResponse {
  status: "ok" | "loading" | "degraded" | "unavailable";
  boot_id: string;
  current_model: string | null;
  loading: LoadProgress[];
  note: string | null;
}

export interface CountResponse {
  model_name: string;
  tokens: number;
  context_length: number;
}

export interface StartEvent {
  conversation_id: string | null;
  message_id: string | null;
  parent_id: string | null;
  model_name: string;
  prompt_tokens: number | null;
  omitted_messages: number;
}

export interface ToolCallEvent {
  index: number;
  id: string;
  name: string;
  arguments: string;
}

export interface ChatResponse {
  response: string;
  conversation_id: string;
  message_id: string;
  model_name: string;
  finish_reason: FinishReason;
  usage: Usage | null;
  timings: Timings | null;
  omitted_messages: number;
}
